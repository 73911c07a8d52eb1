"""Still pictures in and out, in every form people have them."""
