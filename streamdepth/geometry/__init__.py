"""Cameras and points: intrinsics as values, and depth unprojected with them."""
