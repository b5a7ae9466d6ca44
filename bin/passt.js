#!/usr/bin/env node
// Tubetti under the name of passt: its callers' defaults (docs/compatibility.md, "Called as passt").
'use strict';

require('./tubetti.js');
