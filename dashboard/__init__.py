"""Pages on which teams see what their requests cost and how long they took."""
