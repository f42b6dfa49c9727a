"""A loaded program: the step, the generator, and the state that they share."""
