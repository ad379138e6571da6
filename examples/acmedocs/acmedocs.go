// Package acmedocs holds the files of the example: a small company's services, as they are, and the objects that
// describe them.
package acmedocs

import "embed"

// Files are mesh.yaml, and a folder for each service that is not a package of its own.
//
//go:embed mesh.yaml documents/app.py search/app.py attachments/app.py attachments/data.py
var Files embed.FS
