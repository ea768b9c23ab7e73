// SPDX-License-Identifier: GPL-2.0-only
//! Facts to come.
#![no_std]
