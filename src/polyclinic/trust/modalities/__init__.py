"""What each modality adds, what is lost without it, and which one to ask for."""
