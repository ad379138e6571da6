package trail

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
)

// Roots are the certificates of every trust bundle that vouched for members, kept in a file: what was signed under one that
// is gone can still be verified.
type Roots struct {
	path string

	mu   sync.Mutex
	text []byte
}

// OpenRoots opens the file in a folder.
func OpenRoots(dir string) (*Roots, error) {
	r := &Roots{path: filepath.Join(dir, "roots.pem")}
	var err error
	if r.text, err = os.ReadFile(r.path); errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return r, err
}

// Add keeps those that are new.
func (r *Roots) Add(now ...*x509.Certificate) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	text := bytes.Clone(r.text)
	for _, c := range now {
		if one := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}); !bytes.Contains(text, one) {
			text = append(text, one...)
		}
	}
	if len(text) == len(r.text) {
		return nil
	}
	if err := os.WriteFile(r.path+".new", text, 0o600); err != nil {
		return err
	}
	if err := os.Rename(r.path+".new", r.path); err != nil {
		return err
	}
	r.text = text
	return syncFolder(filepath.Dir(r.path))
}

// PEM is all of them.
func (r *Roots) PEM() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return string(r.text)
}

// Pool is all of them.
func (r *Roots) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM([]byte(r.PEM()))
	return pool
}
