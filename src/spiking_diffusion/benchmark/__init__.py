"""Speed of training and sampling, compared with the same networks in plain SpikingJelly code."""
