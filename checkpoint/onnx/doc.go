// Package onnx reads which tensors an ONNX model holds and where their bytes
// lie: in the file itself, in files of external data beside it, or, for short
// lists of integers, in a coded form that Values decodes. It reads the file
// front to back by ranges, passes over the bytes of tensors, and believes no
// count or length before it is checked against what encloses it. checkpoint
// calls it and opens the external files.
//
// A model is one protobuf message, ModelProto; the numbers of fields and types
// are those of onnx/onnx.proto, IR version 13. Tensors are
//
//   - the initializers of the graph, of the graphs inside its nodes (the
//     branches of If, the bodies of Loop and Scan), and
//   - the values of Constant nodes there and in the model's functions, under
//     the name of the node's output.
//
// Other attributes are settings of an operator and no tensors (the fill value
// of ConstantOfShape, value_ints of Constant), and what belongs to training is
// passed over.
//
// Names. Graphs are numbered as they come in the file: 0 is the model's own,
// 1, 2, … those inside nodes and the functions. A tensor has the name that it
// has in its graph. Where several graphs use one name, graph 0 keeps it and the
// others' tensors are called graphN/NAME. So a file's tensors always have the
// same, distinct names.
//
// See https://github.com/onnx/onnx/blob/main/docs/IR.md and ExternalData.md.
package onnx
