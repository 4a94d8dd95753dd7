"""Videos of a digit that moves and bounces: [B, 1, T, H, W], eight frames of 16 x 16 pixels."""
