"""The wire formats that requests and answers are written in, and the common form between them. Pure: no Django, no I/O."""
