"""`mmssl tune`: several runs of a recipe with other values, and which of them to take, also without labels."""
