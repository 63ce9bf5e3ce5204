"""For eyes: pictures of what the library makes."""
