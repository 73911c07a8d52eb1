"""Long clips in segments: resumable, on one machine or several. ``ClipRun`` is the entry."""
