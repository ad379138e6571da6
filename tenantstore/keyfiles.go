package tenantstore

import (
	"fmt"
	"io"
	"os"
)

// maxKeyFile bounds a file of keys, in bytes.
const maxKeyFile = 1 << 20

// ResolveFiles reads the files of keys that objects name into the objects. A name is one in the folder, which it cannot leave, by .. or by
// a link; with no folder none is read.
func ResolveFiles(objects []*Object, folder string) (problems Problems) {
	for _, o := range objects {
		if o.Kind != KindTokenIssuer || o.TokenIssuer.JWKS.File == "" {
			continue
		}
		text, err := readKeys(folder, o.TokenIssuer.JWKS.File)
		if err != nil {
			problems = append(problems, Problem{Object: o.Key().String(), Path: "spec.jwks.file", Text: fmt.Sprintf("must be a file in the folder that --jwks-folder names: %v (got %q)", err, o.TokenIssuer.JWKS.File)})
			continue
		}
		o.TokenIssuer.JWKS = JWKS{Inline: text}
	}
	return problems
}

func readKeys(folder, name string) (string, error) {
	if folder == "" {
		return "", fmt.Errorf("it names none")
	}
	root, err := os.OpenRoot(folder)
	if err != nil {
		return "", err
	}
	defer func() { _ = root.Close() }()
	if info, err := root.Stat(name); err != nil {
		return "", err
	} else if !info.Mode().IsRegular() || info.Size() > maxKeyFile {
		return "", fmt.Errorf("it is no file of at most %d bytes", maxKeyFile)
	}
	file, err := root.Open(name)
	if err != nil {
		return "", err
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, maxKeyFile))
	return string(text), err
}
