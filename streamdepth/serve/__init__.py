"""Depth over HTTP: the page for the browser, the stills API, and what watches over both."""
