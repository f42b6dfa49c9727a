"""Examples as token rows: encoded, packed, in batches."""
