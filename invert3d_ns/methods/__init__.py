"""The methods that ns-train offers, a file each: phases, settings, outputs."""
