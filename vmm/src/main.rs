// SPDX-License-Identifier: GPL-2.0-only
//! Placeholder head, replaced at once.
fn main() {}
