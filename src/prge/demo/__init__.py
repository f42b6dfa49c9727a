"""The messages and chats that the demo learns from."""
