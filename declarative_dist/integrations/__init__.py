"""Bridges to outside libraries, one file each; nothing here is imported with the package."""
