"""Which role each input and output of a graph has. `infer.find_roles` is the recipe; the other files each find one kind of role."""
