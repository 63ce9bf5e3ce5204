"""Joint distributions: named sites, drawn one after the other."""
