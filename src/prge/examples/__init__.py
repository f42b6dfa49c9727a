"""What an example is: files in, records, forms, tasks and token rows out."""
