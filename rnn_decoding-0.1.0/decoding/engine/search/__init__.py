"""The searches: sampling (greedy search too), beam search and stochastic beam search, and what they share: prefill and stopping."""
