"""The server side: a step module in, a .pte out, and what was delegated."""
