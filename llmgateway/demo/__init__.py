"""`./gateway demo`: the product with a fake provider, made-up teams, a past and traffic, in a data folder of its own."""
