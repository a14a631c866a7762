"""The command line: words in, words out; what is computed lies in the packages below."""
