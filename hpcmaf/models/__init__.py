"""Where a base model lies, how it is loaded, and how chats become its tokens."""
