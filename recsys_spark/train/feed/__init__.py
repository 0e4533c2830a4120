"""Batches on a device, with the draws that are added to them."""
