"""What happens to a conversion that is killed, or whose input is damaged, unusual or hostile: tries and outcomes."""
