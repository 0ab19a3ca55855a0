"""The chat page: plain HTML and JavaScript, served beside the policies."""
