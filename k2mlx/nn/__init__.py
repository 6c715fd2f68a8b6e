"""The parts that a K2 layer is made of: rotary positions, latent attention, experts, quantised
matrices."""
