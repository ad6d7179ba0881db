"""The bottom room: the words spoken to payment service providers, and one adapter a provider."""
