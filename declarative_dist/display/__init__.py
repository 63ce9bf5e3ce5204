"""For eyes: tables and pictures of what the library makes."""
