"""Frames and images as memory: pixel formats, planes, colour conversion, orientation, codecs; and compiled kernels."""
