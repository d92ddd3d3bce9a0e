// Protogen turns a .proto file into Go without protoc: protocompile parses
// it, protoc-gen-go's own generator writes the code. The output depends on
// the file and the module versions in go.mod only.
//
//	protogen FILE.proto    writes FILE.pb.go beside it
package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/bufbuild/protocompile"
	gengo "google.golang.org/protobuf/cmd/protoc-gen-go/internal_gengo"
	"google.golang.org/protobuf/compiler/protogen"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/pluginpb"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: protogen FILE.proto")
		os.Exit(2)
	}
	if err := run(os.Args[1]); err != nil {
		fmt.Fprintf(os.Stderr, "protogen: %v\n", err)
		os.Exit(1)
	}
}

// run generates the code of one file that imports no other.
func run(path string) error {
	dir, name := filepath.Split(path)
	c := protocompile.Compiler{
		Resolver:       &protocompile.SourceResolver{ImportPaths: []string{dir}},
		SourceInfoMode: protocompile.SourceInfoStandard, // for the comments
	}
	files, err := c.Compile(context.Background(), name)
	if err != nil {
		return err
	}
	gen, err := protogen.Options{}.New(&pluginpb.CodeGeneratorRequest{
		FileToGenerate: []string{name},
		Parameter:      proto.String("paths=source_relative"),
		ProtoFile:      []*descriptorpb.FileDescriptorProto{protodesc.ToFileDescriptorProto(files[0])},
	})
	if err != nil {
		return err
	}
	gengo.GenerateFile(gen, gen.FilesByPath[name])
	out := gen.Response()
	if out.Error != nil {
		return fmt.Errorf("%s", *out.Error)
	}
	target := filepath.Join(dir, strings.TrimSuffix(name, ".proto")+".pb.go")
	return os.WriteFile(target, []byte(out.File[0].GetContent()), 0o644)
}
