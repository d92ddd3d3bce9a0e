package vocab

import (
	"math"

	"google.golang.org/protobuf/encoding/protowire"
)

// Fields of sentencepiece_model.proto (github.com/google/sentencepiece): of
// ModelProto, SentencePiece, TrainerSpec and NormalizerSpec.
const (
	modelPieces     = 1
	modelTrainer    = 2
	modelNormalizer = 3

	pieceText  = 1
	pieceScore = 2
	pieceType  = 3

	trainerType = 3 // 1 Unigram, 2 BPE
	trainerUnk  = 40
	trainerBOS  = 41
	trainerEOS  = 42
	trainerPad  = 43

	normalizerCharsmap     = 2
	normalizerDummyPrefix  = 3
	normalizerExtraSpaces  = 4 // remove them
	sentencePieceIsUnigram = 1
	sentencePieceIsBPE     = 2
)

// field is one field of a protobuf message: a number, or bytes.
type field struct {
	number protowire.Number
	varint uint64
	fixed  uint32
	bytes  []byte
}

// fields calls f for each field of a message.
func fields(b []byte, f func(field) error) error {
	for len(b) > 0 {
		number, t, n := protowire.ConsumeTag(b)
		if n < 0 {
			return invalid(sentencePieceFile, "no SentencePiece model: %w", protowire.ParseError(n))
		}
		b = b[n:]
		x := field{number: number}
		switch t {
		case protowire.VarintType:
			x.varint, n = protowire.ConsumeVarint(b)
		case protowire.Fixed32Type:
			x.fixed, n = protowire.ConsumeFixed32(b)
		case protowire.BytesType:
			x.bytes, n = protowire.ConsumeBytes(b)
		default:
			n = protowire.ConsumeFieldValue(number, t, b)
		}
		if n < 0 {
			return invalid(sentencePieceFile, "no SentencePiece model: field %d: %w", number, protowire.ParseError(n))
		}
		if err := f(x); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

// sentencePiece reads a SentencePiece model, by the defaults of its proto.
func (v *Vocab) sentencePiece(data []byte) error {
	kind := uint64(sentencePieceIsUnigram)
	ids := map[string]int32{"unknown": 0, "bos": 1, "eos": 2, "padding": -1}
	v.Flags["add_space_prefix"], v.Flags["remove_extra_whitespaces"] = true, true
	err := fields(data, func(x field) error {
		switch x.number {
		case modelPieces:
			return v.piece(x.bytes)
		case modelTrainer:
			return fields(x.bytes, func(x field) error {
				switch x.number {
				case trainerType:
					kind = x.varint
				case trainerUnk:
					ids["unknown"] = int32(x.varint)
				case trainerBOS:
					ids["bos"] = int32(x.varint)
				case trainerEOS:
					ids["eos"] = int32(x.varint)
				case trainerPad:
					ids["padding"] = int32(x.varint)
				}
				return nil
			})
		case modelNormalizer:
			return fields(x.bytes, func(x field) error {
				switch x.number {
				case normalizerCharsmap:
					v.Charsmap = x.bytes
				case normalizerDummyPrefix:
					v.Flags["add_space_prefix"] = x.varint != 0
				case normalizerExtraSpaces:
					v.Flags["remove_extra_whitespaces"] = x.varint != 0
				}
				return nil
			})
		}
		return nil
	})
	switch {
	case err != nil:
		return err
	case len(v.Tokens) == 0:
		return invalid(sentencePieceFile, "a SentencePiece model without pieces")
	case kind == sentencePieceIsBPE:
		v.Kind = SPM
	case kind == sentencePieceIsUnigram:
		v.Kind = Unigram
	default:
		return invalid(sentencePieceFile, "a SentencePiece model of type %d: only BPE and Unigram are known", kind)
	}
	if v.Kind == SPM {
		delete(v.Flags, "remove_extra_whitespaces") // which llama.cpp's SPM does not do
	}
	for role, id := range ids {
		if id >= 0 && int(id) < len(v.Tokens) {
			v.Special[role] = int(id)
		}
	}
	return nil
}

// piece appends one piece.
func (v *Vocab) piece(b []byte) error {
	t := Token{Type: Normal}
	err := fields(b, func(x field) error {
		switch x.number {
		case pieceText:
			t.Text = string(x.bytes)
		case pieceScore:
			t.Score = math.Float32frombits(x.fixed)
		case pieceType:
			t.Type = Type(x.varint)
		}
		return nil
	})
	switch {
	case err != nil:
		return err
	case t.Type < Normal || t.Type > Byte:
		return invalid(sentencePieceFile, "piece %d, %.40q, has the type %d", len(v.Tokens), t.Text, t.Type)
	case t.Score != t.Score:
		return invalid(sentencePieceFile, "piece %d, %.40q, has the score NaN", len(v.Tokens), t.Text)
	case len(v.Tokens) == MaxTokens:
		return invalid(sentencePieceFile, "more than %d pieces", MaxTokens)
	}
	v.Tokens = append(v.Tokens, t)
	return nil
}
