"""Fields: the attributes that a class body declares."""
