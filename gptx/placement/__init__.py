"""Placement of the norms in a block, one file per variant. `base.Block` is the contract."""
