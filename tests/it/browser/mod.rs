//! Journeys of administrators through a real Chromium, with real mail after each step.

mod journey;
mod keyboard;
mod looks;
mod markup;
