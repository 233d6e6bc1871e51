"""What is seen before a run: what data hold and which recipe suits them, what is wrong with them, what a run costs."""
