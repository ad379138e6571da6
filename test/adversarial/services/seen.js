// Writes down each request as it is seen here.
'use strict';
const fs = require('fs');
const http = require('http');

http.createServer((request, response) => {
  const chunks = [];
  request.on('data', (chunk) => chunks.push(chunk));
  request.on('end', () => {
    const header = {};
    for (let i = 0; i < request.rawHeaders.length; i += 2) {
      const name = request.rawHeaders[i].toLowerCase();
      (header[name] = header[name] || []).push(request.rawHeaders[i + 1]);
    }
    let path;
    try {
      path = decodeURIComponent(new URL(request.url, 'http://service').pathname);
    } catch (e) {
      path = 'none: ' + e.message;
    }
    fs.appendFileSync(process.env.SEEN, JSON.stringify({
      method: request.method,
      raw: request.url.split('?')[0],
      path,
      authority: request.headers.host || '',
      header,
      body: Buffer.concat(chunks).toString('latin1'),
    }) + '\n');
    response.end();
  });
}).listen(Number(process.env.PORT), '127.0.0.1');
