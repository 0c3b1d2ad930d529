"""How a run is spread over processes. It never changes what is computed. The only users of torch.distributed."""
