"""Token operators: what mixes the positions of a feature map, one file each; from a map (B, C, H, W) to a map."""
