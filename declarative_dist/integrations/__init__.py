"""Other libraries, each in one file, imported only when it is used."""
