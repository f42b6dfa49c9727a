"""How bytes are read and written safely: bounds, checksums, whole folders, seals, typed JSON."""
