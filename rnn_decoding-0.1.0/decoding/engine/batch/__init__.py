"""The rows that take one step of the network together: on the CPU, on a device, or over windows of the prefixes."""
