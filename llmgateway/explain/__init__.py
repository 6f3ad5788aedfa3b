"""What would become of a request, without its being sent: for support, and for whoever wrote the rules. Nothing is taken."""
