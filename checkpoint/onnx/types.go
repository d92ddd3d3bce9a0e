package onnx

import "github.com/gantry-ml/gantry/dtype"

// stringType is the number of the type of texts, which have no dtype.
const stringType = 8

// elementType is how the values of one of ONNX's types are stored.
type elementType struct {
	name  string // as TensorProto.DataType calls it
	dtype dtype.Type
	field field // that holds them where raw_data does not
	// coded is the bytes of each value of field, which are varints there; 0
	// where they lie in field as they do in raw_data.
	coded int64
}

// types are the types by ONNX's numbers. Values of 4 and 2 bits are packed
// from the lowest bits of a byte on, and the last byte of a tensor is filled
// up; int32_data has one number for each such byte.
var types = [...]elementType{
	1:  {"FLOAT", dtype.F32, floatData, 0},
	2:  {"UINT8", dtype.U8, int32Data, 1},
	3:  {"INT8", dtype.I8, int32Data, 1},
	4:  {"UINT16", dtype.U16, int32Data, 2},
	5:  {"INT16", dtype.I16, int32Data, 2},
	6:  {"INT32", dtype.I32, int32Data, 4},
	7:  {"INT64", dtype.I64, int64Data, 8},
	9:  {"BOOL", dtype.Bool, int32Data, 1},
	10: {"FLOAT16", dtype.F16, int32Data, 2},
	11: {"DOUBLE", dtype.F64, doubleData, 0},
	12: {"UINT32", dtype.U32, uint64Data, 4},
	13: {"UINT64", dtype.U64, uint64Data, 8},
	14: {"COMPLEX64", dtype.C64, floatData, 0},
	15: {"COMPLEX128", dtype.C128, doubleData, 0},
	16: {"BFLOAT16", dtype.BF16, int32Data, 2},
	17: {"FLOAT8E4M3FN", dtype.F8E4M3, int32Data, 1},
	18: {"FLOAT8E4M3FNUZ", dtype.F8E4M3FNUZ, int32Data, 1},
	19: {"FLOAT8E5M2", dtype.F8E5M2, int32Data, 1},
	20: {"FLOAT8E5M2FNUZ", dtype.F8E5M2FNUZ, int32Data, 1},
	21: {"UINT4", dtype.U4, int32Data, 1},
	22: {"INT4", dtype.I4, int32Data, 1},
	23: {"FLOAT4E2M1", dtype.F4, int32Data, 1},
	24: {"FLOAT8E8M0", dtype.F8E8M0, int32Data, 1},
	25: {"UINT2", dtype.U2, int32Data, 1},
	26: {"INT2", dtype.I2, int32Data, 1},
}
