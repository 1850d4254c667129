"""The native step: a network with packed weights, and runs of it over arrays that stay where they are."""
