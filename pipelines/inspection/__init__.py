"""What an input of any format holds, whether the slots have room for it, and a draft of its registry entries."""
