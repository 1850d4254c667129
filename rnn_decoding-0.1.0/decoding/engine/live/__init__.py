"""Decoding of requests that come while others run: threads, token events, states that are remembered."""
