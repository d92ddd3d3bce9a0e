// Package configfile reads quantization settings from a YAML or JSON file, as
// --quant-config takes them. Keys that it does not know are errors. It is
// apart from quant so that quant needs no parser.
package configfile
